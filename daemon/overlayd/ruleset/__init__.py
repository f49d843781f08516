"""The rules of a host, whoever wrote them, as a packet meets them. All pure."""
