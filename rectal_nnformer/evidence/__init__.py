"""Evidence that anyone can make again: the method's mechanisms in a study of small networks on made cohorts."""
