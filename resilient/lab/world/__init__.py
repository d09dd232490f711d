"""Parts of a simulated world: servers that work on what was abandoned, their queues, a network, discovery with lag."""
