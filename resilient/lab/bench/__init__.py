"""Many runs: what is to be played, on all cores, and how it is held against what was expected."""
