"""What the whole suite needs of its process."""

import signal

# A shell that starts the suite in the background has it ignore SIGINT, and every program that a test starts would
# inherit that: Ctrl-C tests would wait for ever. A handler, unlike being ignored, is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
