"""Tools for seeing what failure policies do: load, measurements, and a page that shows them.

`load`
    Sends calls at given instants and never waits for an answer before it sends the next.
`metrics`
    Turns the records of a run into percentiles, goodput, series over time and the time to recover.
`report`
    Draws them on one self-contained HTML page.
"""
