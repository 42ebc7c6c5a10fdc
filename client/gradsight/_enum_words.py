"""The contract's enumerations as people write them: lower case, without the prefix that all values share."""

from google.protobuf.descriptor import EnumDescriptor


def word(enum: EnumDescriptor, number: int) -> str | None:
    """Returns the word of a value, `running` say; None for one that this program is too old for."""
    value = enum.values_by_number.get(number)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return None if value is None else value.name.removeprefix(prefix).lower()


def words(enum: EnumDescriptor) -> dict[str, int]:
    """Returns every word with its value, without `unspecified`, in the contract's order."""
    return {word(enum, value.number) or "": value.number for value in enum.values if value.number}
