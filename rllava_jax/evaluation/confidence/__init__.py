"""Does the confidence mean what it says: its statistics, its calibration, and the risk it promises."""
