"""The discovery service beside the console's rows: any number of processes, one state."""
