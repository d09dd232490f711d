"""Tools for testing code that calls other services: virtual time, and cancellation at every await.

`virtual_time`
    Runs an async function to its end in virtual time: an hour of timeouts and backoff takes
    milliseconds, and the same seed gives the same run.
`cancellation`
    Runs a scenario again and again, cancelled at its first await, its second, and so on.
`consul`
    A strict fake of a Consul agent, on a real socket.
`kubernetes`
    A fake API server of Kubernetes on real sockets, strict, and with everything that can go wrong.
`pytest_plugin`
    The marker `virtual_time`, which runs an async test in virtual time on asyncio and on trio.
"""
