"""From an integer network and a core configuration to a program, a memory plan and a list of layers."""
