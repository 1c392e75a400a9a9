"""Exit codes of the commands: what a launcher may do next can be read from them.

| code | meaning | run the same command again? |
|---|---|---|
| 0 | done | not needed |
| 2 | an error that the user can fix; the last line names it | only after fixing it |
| 3 | a bad step (not finite, or a spike) stopped the run; `scaling` refused a law | no: it would meet the same |
| 74 | the disk is full, read-only or failing; what was saved before is whole | once that is mended: it resumes |
| 75 | training was interrupted (SIGTERM, SIGINT, a preemption notice); what was trained is saved | yes: it resumes |
| 76 | another host was lost, or never appeared | yes, on all hosts: it resumes from the last checkpoint |
| 130 | Ctrl-C, of commands other than training | yes |

Any other code is a crash: 1 after a traceback, above 128 (or negative) when a signal killed the process.
"""

DONE = 0
USER_ERROR = 2
BAD_STEP = 3
STORAGE = 74  # EX_IOERR of sysexits.h
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: "the user is invited to retry"
LOST_HOST = 76
CTRL_C = 130  # as shells report a program that SIGINT ended
