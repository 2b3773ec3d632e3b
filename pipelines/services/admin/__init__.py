"""The workspace and the installation as a whole: accounts, backups, erasure, checks."""
