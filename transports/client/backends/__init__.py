"""What the client engine waits, works and connects by: threads, or an asyncio event loop."""
