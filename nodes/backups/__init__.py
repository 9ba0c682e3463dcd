"""What a backup file is: rows and files of a console (`content`), encrypted with a passphrase (`crypt`).

Making and restoring one are `nodes.services.backups`.
"""
