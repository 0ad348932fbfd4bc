"""What tests of several packages share: small files, spaces, runs and stand-ins for phone tools."""
