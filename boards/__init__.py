"""Board tops on amaranth-boards, with clocking and host links."""
