"""A proof on this machine: a small orders service is put through disasters, called plainly and through `resilient`.

`script`
    What is run, for how long, and which disaster strikes whom when.
`server`, `app`, `faults`
    One process of the orders service, and how it is made to misbehave.
`fleet`
    The processes: started, disturbed, and never left behind.
`callers`
    The two clients that are compared.
`experiment`, `evidence`
    One run of the script, and what it came to: the records of the calls and the rows of the database.
`verdict`
    Whether it proves what it is to prove.
`live`, `page`
    How it is shown.
"""
