"""One file per figure or claim; each states its command, hardware and expected result."""
