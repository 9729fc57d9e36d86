"""What people do with results: read packs, run directories and certificates, and compare, show, export, rejudge them.

Everything is verified before anything of it is shown; who asks for something that does not hold is told so, on every
line of what comes out.
"""
