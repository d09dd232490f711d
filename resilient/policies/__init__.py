"""The policies: thin drivers around the machines, one file each.

A policy is composed, not called: `Pipeline(Timeout(2.0), Retry(), CircuitBreaker())`. Every one is thread-safe: many
threads and several event loops may share it.
"""
