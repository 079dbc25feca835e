"""What runs on the device: sent as one file, `agent-<hash>.pyz`, a program that Python runs as it is.

Standard library only, plus NumPy and a TFLite runtime where a model runs, plus psutil if it is there. Everything in
this folder must run on Python 3.8 and import nothing of EdgeNAS outside it.
"""
