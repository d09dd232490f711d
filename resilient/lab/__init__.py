"""Tools for seeing what failure policies do: load, measurements, and a page that shows them.

`load`
    Sends calls at given instants and never waits for an answer before it sends the next.
`metrics`
    Turns the records of a run into percentiles, goodput, series over time and the time to recover.
`results`
    The file that runs are kept in: read, written, merged, hashed.
`statistics`, `findings`
    What several seeds say together, with intervals; and what that means, in plain words.
`terminal`, `page`, `picture`
    Results as tables in the terminal, as an HTML page, as PNG.
`comparison`, `gate`
    How two results differ; whether they keep the rules of a `bench.toml`.
`report`
    Draws text, figures, charts and tables on one self-contained HTML page.
"""
