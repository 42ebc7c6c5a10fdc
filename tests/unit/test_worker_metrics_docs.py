"""Every family that a worker serves is documented, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_families_of_a_worker_are_those_of_the_docs() -> None:
    source = (ROOT / "worker/gradsight_worker/metrics_server.py").read_text()
    served = set(re.findall(r'"(gradsight_worker_[a-z_]+)"', source))
    section = (ROOT / "docs/metrics.md").read_text().partition("## Worker")[2].partition("## ")[0]
    documented = {
        name.removesuffix("_total") for name in re.findall(r"`(gradsight_worker_[a-z_]+)`", section)
    }
    assert documented == served
