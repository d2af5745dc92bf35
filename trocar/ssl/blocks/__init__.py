"""What methods are built of: networks, heads, teachers, queues, masks."""
