"""The command line: `twinline`, and a room for each family of commands.

::

    main ──▶ commands               the program, and the table of where each command is
      │
      ├──▶ server                   serve, store, demo
      ├──▶ client  ◀── chat         the commands of one account; the talk at a prompt or in a pipe
      ├──▶ admin ──▶ server, client admin, top, trace: the operator of a server that runs
      ├──▶ verify, bench ──▶ client, server
      └──▶ completion ──▶ client, admin
                │
                ▼
            settings                one model: file, environment, flags, documentation
                │
                ▼
            console                 how every command talks: output, errors, exit codes, help

A room imports those below it and never one above; a command is imported when it is used.
"""
