"""A simulation of several processes on one thread, in one process and on virtual time.

| module | what it has |
|---|---|
| ``virtual_loop`` | an event loop whose time passes only when it is told to |
| ``killable_process`` | processes that can be killed between any two of their effects |
| ``records`` | what is seen of them: requests, interrupts, answers, runs of the graph |
| ``world`` | checkpoints, ledger and service, and the processes that use them |
| ``invariants`` | the rules that must hold after each step |
"""
