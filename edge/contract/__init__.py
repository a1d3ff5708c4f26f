"""What the MES sees: the messages, their schemas, and how a judged scan becomes one."""
