"""What all desks share: sessions, access, pages, errors."""
