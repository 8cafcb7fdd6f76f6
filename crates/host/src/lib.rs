//! Files, imports, memory maps, threads and the machine: what core leaves to an operating system.
