"""Shows what is in data sets: `python -m data_pipelines.inspect`; the command is in `inspection/command.py`."""

import os
import sys

if not __package__:
    # Python was started in this folder, or on a file in it, and looks for modules here first.
    _HERE = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.path.dirname(_HERE) if os.path.abspath(folder) == _HERE else folder for folder in sys.path]

if __name__ == "inspect":
    # It takes this module for its own of the same name. Others wait for that one, so nothing else is imported here.
    del sys.modules["inspect"]
    import inspect as inspect
else:
    if __name__ == "__main__":
        from data_pipelines.core.signals import end_at_once

        end_at_once()
    from data_pipelines.inspection.command import main as main

if __name__ == "__main__":
    sys.exit(main())
