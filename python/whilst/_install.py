"""``whilst.install`` and ``whilst.uninstall``: which loops asyncio itself makes."""


def install() -> None:
    """Make loops of whilst the ones that asyncio makes.

    From here on, in every thread, ``asyncio.run()``, ``asyncio.Runner()`` and ``asyncio.new_event_loop()`` use
    :class:`whilst.Loop`, unless they are given a ``loop_factory``. ``asyncio.get_event_loop()`` without a running
    loop behaves as it does in this Python, and where it makes a loop, makes one of whilst. Loops that exist
    already are not touched, but one that was current and is not running is not current any more.

    A second call changes nothing. No Python from 3.11 to 3.15 warns.
    """
    from whilst import _policy

    if not isinstance(_policy.current_policy(), _policy.EventLoopPolicy):
        _policy.set_policy(_policy.EventLoopPolicy())


def uninstall() -> None:
    """Undo :func:`install`: asyncio makes its own loops again.

    Loops that exist already are not touched. Where a policy that is not whilst's has been set in the meantime,
    nothing changes.
    """
    from whilst import _policy

    if isinstance(_policy.current_policy(), _policy.EventLoopPolicy):
        _policy.set_policy(None)
