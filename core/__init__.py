"""The domain: accounts, mailboxes and their rules, with no socket and no thread of its own."""
