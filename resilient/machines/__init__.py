"""Decisions, as plain synchronous state machines.

A machine owns its state and nothing else: time and chance are arguments, it does no I/O, takes no lock and
imports nothing but the standard library and its neighbours. The policy around it serialises access. So the
same object decides in production, in a unit test and in virtual time.
"""
