"""Exit codes of `python -m rllava_jax.main`: what a launcher may do next can be read from them.

| code | meaning | start the same line again? |
|---|---|---|
| 0 | done | not needed |
| 2 | an error that the user can mend; the last line names it | only after mending it |
| 3 | a bad step (not finite, or a spike) stopped the run | no: it would meet the same step |
| 75 | interrupted (SIGTERM, SIGINT, a preemption notice); what was trained is saved | yes: it goes on |
| 76 | another host was lost, or never appeared | yes, on all hosts: it goes on from the last checkpoint |

Any other code is a crash: 1 after a traceback, above 128 (or negative) when a signal killed the process.
"""

DONE = 0
USER_ERROR = 2
BAD_STEP = 3
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: "the user is invited to retry"
LOST_HOST = 76
