"""A real Debian, booted in a virtual machine, for what this machine's kernel lacks: USB serial modems, PPP, udev.

Host side: `image` builds and caches the disk, `machine` boots it with a job and brings the results back.
Guest side, in `guest/`: a USB modem of kernel gadgets whose far end is our simulator, and the journeys over it.
"""
