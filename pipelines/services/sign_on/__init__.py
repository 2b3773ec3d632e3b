"""Single sign-on by OpenID Connect: the provider's client, and the accounts of those whom it names."""
