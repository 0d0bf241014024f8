"""Rules of events, pure: filters, the records a handler gets, retries, schedules, destinations, CloudEvents.

Nothing here knows a clock, a store or a socket: time, ids and randomness are arguments.
"""
