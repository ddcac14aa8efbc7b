"""How to spend a SIM's bytes: policies of testing, replayed over recorded and made-up cells."""
