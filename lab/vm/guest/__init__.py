"""What runs inside the virtual machine, as root: plugs a simulated modem into its USB bus and tells what came of it."""
