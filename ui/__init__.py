"""What people see: server, accounts, annotation page, one file per desk."""
