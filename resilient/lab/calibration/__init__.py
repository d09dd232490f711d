"""The same scenario over real sockets, in real time: how far is the simulation to be trusted?

Callers, policies, connections and HTTP are real; servers are the simulated ones, each behind a listener of its own on
the loopback interface. What then differs from the simulation is held against what was measured of the machine
meanwhile.
"""
