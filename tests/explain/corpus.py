"""Small programs: some with one of asyncio's classic mistakes, some with others or none.

Each defines ``main``, a coroutine function. Of a faulty one the second part is what must be said: the line as it was meant, or,
where no line can be given, a part of the reason. `source_of` makes a whole program of one.
"""

import textwrap

#: What stands at the beginning of each.
COMMON = """
import asyncio, collections, contextlib, json, types

async def fetch(value=None):
    await asyncio.sleep(0)
    return value

async def numbers():
    for number in range(3):
        yield number

class Request:
    @property
    async def form(self):
        return {"key": "value"}
    async def json(self):
        return {"key": "value"}
    path = "/"

class Session:
    async def __aenter__(self):
        return self
    async def __aexit__(self, *error):
        pass
    def get(self, url):
        return fetch({"url": url})
    async def close(self):
        pass

request = Request()
session = Session()
"""


def source_of(program: str) -> str:
    """Return the program with what all begin with."""
    return COMMON + textwrap.dedent(program)


#: What a note on the exception must say.
FAULTY: dict[str, tuple[str, str]] = {
    "attribute of a property": (
        r"""
        async def main():
            value = await request.form.get('key')
        """,
        "(await request.form).get('key')",
    ),
    "attribute of a call": (
        r"""
        async def main():
            value = fetch({}).get('key')
        """,
        "value = (await fetch({})).get('key')",
    ),
    "attribute of a method's result": (
        r"""
        async def main():
            keys = request.json().keys()
        """,
        "keys = (await request.json()).keys()",
    ),
    "attribute of a name": (
        r"""
        async def main():
            answer = session.get('/')
            print(answer.status)
        """,
        "print((await answer).status)",
    ),
    "attribute of a task": (
        r"""
        async def main():
            task = asyncio.create_task(fetch({}))
            print(task.items())
        """,
        "print((await task).items())",
    ),
    "attribute of a future": (
        r"""
        async def main():
            future = asyncio.get_running_loop().create_future()
            return future.upper()
        """,
        "return (await future).upper()",
    ),
    "attribute in an f-string": (
        r"""
        async def main():
            return f"{fetch('x').upper()}"
        """,
        "return f\"{(await fetch('x')).upper()}\"",
    ),
    "an attribute that is set": (
        r"""
        async def main():
            answer = fetch(types.SimpleNamespace())
            answer.status = 200
        """,
        "(await answer).status = 200",
    ),
    "item of a call": (
        r"""
        async def main():
            value = fetch({'key': 1})['key']
        """,
        "value = (await fetch({'key': 1}))['key']",
    ),
    "item of a name": (
        r"""
        async def main():
            answer = fetch([1])
            return answer[0]
        """,
        "return (await answer)[0]",
    ),
    "item, awaited too late": (
        r"""
        async def main():
            return await request.json()['key']
        """,
        "(await request.json())['key']",
    ),
    "item of a task": (
        r"""
        async def main():
            task = asyncio.ensure_future(fetch([1]))
            return task[0]
        """,
        "return (await task)[0]",
    ),
    "item that is set": (
        r"""
        async def main():
            answer = fetch({})
            answer['key'] = 1
        """,
        "(await answer)['key'] = 1",
    ),
    "sum": (
        r"""
        async def main():
            total = fetch(1) + 2
        """,
        "total = await fetch(1) + 2",
    ),
    "sum, right": (
        r"""
        async def main():
            total = 2 + fetch(1)
        """,
        "total = 2 + await fetch(1)",
    ),
    "sum in place": (
        r"""
        async def main():
            total = 0
            total += fetch(1)
        """,
        "total += await fetch(1)",
    ),
    "power": (
        r"""
        async def main():
            return fetch(2) ** 2
        """,
        "return (await fetch(2)) ** 2",
    ),
    "negative": (
        r"""
        async def main():
            return -fetch(1)
        """,
        "return -await fetch(1)",
    ),
    "text": (
        r"""
        async def main():
            return 'a' + fetch('b')
        """,
        "return 'a' + await fetch('b')",
    ),
    "text, left": (
        r"""
        async def main():
            return fetch('b') + 'a'
        """,
        "return await fetch('b') + 'a'",
    ),
    "comparison": (
        r"""
        async def main():
            if fetch(1) > 0:
                return True
        """,
        "if await fetch(1) > 0:",
    ),
    "comparison, right": (
        r"""
        async def main():
            return 0 < fetch(1)
        """,
        "return 0 < await fetch(1)",
    ),
    "membership": (
        r"""
        async def main():
            return 1 in fetch([1])
        """,
        "return 1 in await fetch([1])",
    ),
    "iteration": (
        r"""
        async def main():
            for one in fetch([1]):
                print(one)
        """,
        "for one in await fetch([1]):",
    ),
    "iteration in a comprehension": (
        r"""
        async def main():
            return [one for one in fetch([1])]
        """,
        "return [one for one in await fetch([1])]",
    ),
    "unpacking": (
        r"""
        async def main():
            first, second = fetch((1, 2))
        """,
        "first, second = await fetch((1, 2))",
    ),
    "length": (
        r"""
        async def main():
            return len(fetch([1]))
        """,
        "return len(await fetch([1]))",
    ),
    "number": (
        r"""
        async def main():
            return int(fetch('1'))
        """,
        "return int(await fetch('1'))",
    ),
    "call": (
        r"""
        async def main():
            return fetch(print)()
        """,
        "return (await fetch(print))()",
    ),
    "with": (
        r"""
        async def main():
            with fetch(contextlib.nullcontext()) as it:
                pass
        """,
        "with await fetch(contextlib.nullcontext()) as it:",
    ),
    "await of a function": (
        r"""
        async def main():
            await fetch
        """,
        "await fetch()",
    ),
    "await of a method": (
        r"""
        async def main():
            await session.close
        """,
        "await session.close()",
    ),
    "await of a list": (
        r"""
        async def main():
            return await [fetch(1), fetch(2)]
        """,
        "await asyncio.gather(fetch(1), fetch(2))",
    ),
    "await of a list with a name": (
        r"""
        async def main():
            tasks = [asyncio.create_task(fetch(n)) for n in range(3)]
            await tasks
        """,
        "await asyncio.gather(*tasks)",
    ),
    "await of what is not asynchronous": (
        r"""
        def plain():
            return 1

        async def main():
            value = await plain()
        """,
        "value = plain()",
    ),
    "await of print": (
        r"""
        async def main():
            await print('x')
        """,
        "print('x')",
    ),
    "async for over a list": (
        r"""
        async def main():
            async for one in [1, 2]:
                print(one)
        """,
        "for one in [1, 2]:",
    ),
    "async for over a coroutine": (
        r"""
        async def main():
            async for one in fetch(numbers()):
                print(one)
        """,
        "async for one in await fetch(numbers()):",
    ),
    "for over an asynchronous generator": (
        r"""
        async def main():
            for one in numbers():
                print(one)
        """,
        "async for one in numbers():",
    ),
    "with a lock": (
        r"""
        async def main():
            lock = asyncio.Lock()
            with lock:
                pass
        """,
        "async with lock:",
    ),
    "with a session": (
        r"""
        async def main():
            with Session() as it:
                pass
        """,
        "async with Session() as it:",
    ),
    "async with a file": (
        r"""
        async def main():
            async with open('/dev/null') as file:
                pass
        """,
        "with open('/dev/null') as file:",
    ),
    "awaited twice": (
        r"""
        async def main():
            once = fetch()
            await once
            await once
        """,
        "`once` has been awaited, run as a task or closed before",
    ),
    "run in a running loop": (
        r"""
        async def main():
            value = asyncio.run(fetch())
        """,
        "value = await fetch()",
    ),
    "run until complete in a running loop": (
        r"""
        async def main():
            return asyncio.get_running_loop().run_until_complete(fetch())
        """,
        "return await fetch()",
    ),
    "a future of another loop": (
        r"""
        async def made():
            return asyncio.get_running_loop().create_future()

        future = asyncio.run(made())

        async def main():
            await future
        """,
        "belongs to another event loop",
    ),
    "a lock of another loop": (
        r"""
        lock = asyncio.Lock()

        async def use():
            async with lock:
                await asyncio.sleep(0)

        async def both():
            await asyncio.gather(use(), use())

        asyncio.run(both())

        async def main():
            await both()
        """,
        "belongs to another event loop",
    ),
    "used in a plain function": (
        r"""
        def key():
            return request.json()['key']

        async def main():
            return key()
        """,
        "only a function made with `async def`",
    ),
    "in a task": (
        r"""
        async def work():
            return fetch({}).get('key')

        async def main():
            await asyncio.create_task(work())
        """,
        "return (await fetch({})).get('key')",
    ),
    "in a task group": (
        r"""
        async def work():
            return fetch({}).get('key')

        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(work())
        """,
        "return (await fetch({})).get('key')",
    ),
    "raised anew": (
        r"""
        async def main():
            try:
                fetch()['x']
            except TypeError as error:
                raise ValueError('no') from error
        """,
        "(await fetch())['x']",
    ),
    "letters of other scripts": (
        r"""
        async def main():
            größe = 'ß'; wert = fetch({'ß': 1})[größe]
        """,
        "wert = (await fetch({'ß': 1}))[größe]",
    ),
    "on several lines": (
        r"""
        async def main():
            value = (
                fetch({})
                .get('key')
            )
        """,
        "(await fetch({}))",
    ),
    "attribute of a walrus": (
        r"""
        async def main():
            return (answer := fetch({})).get('key')
        """,
        "return (answer := await fetch({})).get('key')",
    ),
    "attribute that is deleted": (
        r"""
        async def main():
            answer = fetch(request)
            del answer.path
        """,
        "del (await answer).path",
    ),
    "attribute of a named task's result": (
        r"""
        async def main():
            task = asyncio.create_task(fetch(''), name='x')
            return [task.upper() for _ in range(2)]
        """,
        "return [(await task).upper() for _ in range(2)]",
    ),
    "attribute in a lambda": (
        r"""
        async def main():
            call = lambda: fetch({}).get('key')
            return call()
        """,
        "only a function made with `async def`",
    ),
    "attribute in a decorated function": (
        r"""
        import functools
        def decorated(function):
            @functools.wraps(function)
            async def inner(*arguments):
                return await function(*arguments)
            return inner

        @decorated
        async def main():
            return fetch({}).get('key')
        """,
        "return (await fetch({})).get('key')",
    ),
    "a decorated function's result": (
        r"""
        import functools
        def decorated(function):
            @functools.wraps(function)
            async def inner(*arguments):
                return await function(*arguments)
            return inner

        @decorated
        async def get():
            return {}

        async def main():
            return get()['key']
        """,
        "return (await get())['key']",
    ),
    "in a nested f-string": (
        r"""
        async def main():
            width = 9
            return f"{fetch('x').upper():>{width}}"
        """,
        "return f\"{(await fetch('x')).upper():>{width}}\"",
    ),
    "behind other statements in a line": (
        r"""
        async def main():
            if request: answer = fetch({}); print(answer['key'])
        """,
        "print((await answer)['key'])",
    ),
    "a slice": (
        r"""
        async def main():
            return fetch([1, 2])[:1]
        """,
        "return (await fetch([1, 2]))[:1]",
    ),
    "list of a call": (
        r"""
        async def main():
            return list(fetch([1]))
        """,
        "return list(await fetch([1]))",
    ),
    "written as JSON": (
        r"""
        async def main():
            return json.dumps({'value': fetch(1)})
        """,
        "return json.dumps({'value': await fetch(1)})",
    ),
    "unpacked into a list": (
        r"""
        async def main():
            first, *rest = fetch([1, 2])
        """,
        "first, *rest = await fetch([1, 2])",
    ),
    "in an asynchronous generator": (
        r"""
        async def some():
            yield fetch({})['key']

        async def main():
            return [one async for one in some()]
        """,
        "yield (await fetch({}))['key']",
    ),
    "passed to a function": (
        r"""
        def total(prices):
            return prices['a'] + 1

        async def main():
            return total(fetch({'a': 1}))
        """,
        "return total(await fetch({'a': 1}))",
    ),
    "passed to a coroutine function": (
        r"""
        async def total(prices):
            return prices['a'] + 1

        async def main():
            answer = fetch({'a': 1})
            return await total(answer)
        """,
        "return await total(await answer)",
    ),
    "passed through two functions": (
        r"""
        def total(prices):
            return prices['a'] + 1

        def both(prices, other):
            return total(prices) + total(other)

        async def main():
            return both(fetch({'a': 1}), {'a': 2})
        """,
        "return both(await fetch({'a': 1}), {'a': 2})",
    ),
    "passed to a task's function": (
        r"""
        async def total(prices):
            return prices['a'] + 1

        async def main():
            await asyncio.create_task(total(fetch({'a': 1})))
        """,
        "`prices` is a coroutine that was passed to `total()` without being awaited",
    ),
    "await of a method of a class": (
        r"""
        async def main():
            await asyncio.Queue.get
        """,
        "`asyncio.Queue.get` is a function, which has to be called",
    ),
    "await of a function with an argument": (
        r"""
        async def get(url):
            pass

        async def main():
            await get
        """,
        "`get` is a function, which has to be called",
    ),
    "await of asyncio.sleep": (
        r"""
        async def main():
            await asyncio.sleep
        """,
        "`asyncio.sleep` is a function",
    ),
    "await of time.sleep": (
        r"""
        import time

        async def main():
            await time.sleep(0)
        """,
        "await asyncio.sleep(0)",
    ),
    "await of queue.put_nowait": (
        r"""
        async def main():
            queue = asyncio.Queue()
            await queue.put_nowait(1)
        """,
        "queue.put_nowait(1)",
    ),
    "await of event.set": (
        r"""
        async def main():
            event = asyncio.Event()
            await event.set()
        """,
        "event.set()",
    ),
    "await of task.cancel": (
        r"""
        async def main():
            task = asyncio.create_task(fetch())
            await task.cancel()
        """,
        "task.cancel()",
    ),
    "await of list.append": (
        r"""
        async def main():
            items = []
            await items.append(1)
        """,
        "items.append(1)",
    ),
    "await of a comprehension": (
        r"""
        async def main():
            return await [fetch(number) for number in range(3)]
        """,
        "await asyncio.gather(*[fetch(number) for number in range(3)])",
    ),
    "await of a tuple": (
        r"""
        async def main():
            return await (fetch(1), fetch(2))
        """,
        "await asyncio.gather(fetch(1), fetch(2))",
    ),
    "await of an asynchronous generator": (
        r"""
        async def main():
            return await numbers()
        """,
        "`numbers()` is an asynchronous generator, which `async for`",
    ),
    "await of a function that may be asynchronous": (
        r"""
        def either(flag):
            if flag:
                return fetch()

        async def main():
            await either(False)
        """,
        "`either` is no asynchronous function: it has returned None, which cannot be awaited",
    ),
    "await of a callback that is plain": (
        r"""
        async def serve(handler):
            return await handler('/')

        def index(path):
            return 'text'

        async def main():
            await serve(index)
        """,
        "`handler` is no asynchronous function: it has returned a str, which cannot be awaited",
    ),
    "await behind a decorator": (
        r"""
        import functools
        def decorated(function):
            @functools.wraps(function)
            def inner(*arguments):
                function(*arguments).close()
            return inner

        @decorated
        async def get():
            pass

        async def main():
            await get()
        """,
        "a decorator has put a plain function in its place",
    ),
    "a task of a function": (
        r"""
        async def main():
            await asyncio.create_task(fetch)
        """,
        "await asyncio.create_task(fetch())",
    ),
    "gather of a function": (
        r"""
        async def main():
            await asyncio.gather(fetch(), session.close)
        """,
        "await asyncio.gather(fetch(), session.close())",
    ),
    "wait_for of a function": (
        r"""
        async def main():
            await asyncio.wait_for(fetch, 1)
        """,
        "await asyncio.wait_for(fetch(), 1)",
    ),
    "async for over a dictionary": (
        r"""
        async def main():
            table = {}
            async for key in table:
                pass
        """,
        "for key in table:",
    ),
    "async for over a range in a comprehension": (
        r"""
        async def main():
            return [one async for one in range(3)]
        """,
        "`range(3)` is a range, which an ordinary loop",
    ),
    "async def __aiter__": (
        r"""
        class Rows:
            async def __aiter__(self):
                return self

        async def main():
            async for row in Rows():
                pass
        """,
        "`__aiter__` is made with `async def`",
    ),
    "for over an asynchronous generator in a comprehension": (
        r"""
        async def main():
            return [one for one in numbers()]
        """,
        "return [one async for one in numbers()]",
    ),
    "list of an asynchronous generator": (
        r"""
        async def main():
            return list(numbers())
        """,
        "return [item async for item in numbers()]",
    ),
    "for over an asynchronous generator in a plain function": (
        r"""
        def every():
            for one in numbers():
                print(one)

        async def main():
            every()
        """,
        "which only `async for` in an `async def` function goes through",
    ),
    "with a semaphore": (
        r"""
        async def main():
            limit = asyncio.Semaphore(2)
            with limit:
                await fetch()
        """,
        "async with limit:",
    ),
    "with a timeout": (
        r"""
        async def main():
            with asyncio.timeout(1):
                await fetch()
        """,
        "async with asyncio.timeout(1):",
    ),
    "with a task group": (
        r"""
        async def main():
            with asyncio.TaskGroup() as group:
                pass
        """,
        "async with asyncio.TaskGroup() as group:",
    ),
    "async with a coroutine": (
        r"""
        async def connect():
            return session

        async def main():
            async with connect() as it:
                pass
        """,
        "async with await connect() as it:",
    ),
    "async with a plain lock": (
        r"""
        import threading

        async def main():
            lock = threading.Lock()
            async with lock:
                pass
        """,
        "with lock:",
    ),
    "a cached coroutine": (
        r"""
        import functools

        @functools.lru_cache
        def plain():
            pass

        @functools.cache
        async def get():
            return 1

        async def main():
            await get()
            await get()
        """,
        "`get` keeps the coroutine of its first call",
    ),
    "awaited by two tasks": (
        r"""
        async def use(once):
            return await once

        async def main():
            once = fetch()
            await asyncio.gather(use(once), use(once))
        """,
        "`once` is being awaited elsewhere",
    ),
    "awaited in a loop": (
        r"""
        async def main():
            once = fetch()
            for _ in range(3):
                await once
        """,
        "`once` has been awaited, run as a task or closed before",
    ),
    "run in a running loop, in an expression": (
        r"""
        async def main():
            return asyncio.run(fetch({})).get('key')
        """,
        "return (await fetch({})).get('key')",
    ),
    "run in a plain function in a running loop": (
        r"""
        def value():
            return asyncio.run(fetch())

        async def main():
            return value()
        """,
        "make this function `async def`",
    ),
    "a new loop in a running loop": (
        r"""
        async def main():
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(fetch(1))
            finally:
                loop.close()
        """,
        "await fetch(1)",
    ),
    "a queue of another loop": (
        r"""
        queue = asyncio.Queue()

        async def take():
            async with asyncio.timeout(0.01):
                await queue.get()

        try:
            asyncio.run(take())
        except TimeoutError:
            pass

        async def main():
            await take()
        """,
        "this Queue belongs to another event loop",
    ),
    "a task of another loop": (
        r"""
        other = asyncio.new_event_loop()
        task = other.create_task(fetch())

        async def main():
            try:
                await task
            finally:
                task.get_coro().close()
                task._log_destroy_pending = False
                other.close()
        """,
        "belongs to another event loop",
    ),
    "a task in a thread": (
        r"""
        def work():
            asyncio.create_task(fetch)

        async def main():
            await asyncio.to_thread(work)
        """,
        "`asyncio.run_coroutine_threadsafe()`",
    ),
    "the running loop in a thread": (
        r"""
        def work():
            return asyncio.get_running_loop()

        async def main():
            await asyncio.to_thread(work)
        """,
        "none runs in this thread",
    ),
    "gathered": (
        r"""
        async def work():
            return fetch({}).get('key')

        async def main():
            await asyncio.gather(work(), fetch())
        """,
        "return (await fetch({})).get('key')",
    ),
    "a key that is no function": (
        r"""
        async def main():
            key = fetch()
            items = [2, 1]
            try:
                items.sort(key=key)
            finally:
                key.close()
        """,
        "items.sort(key=await key)",
    ),
    "gathered results that are unpacked": (
        r"""
        async def main():
            first, second = asyncio.gather(fetch(1), fetch(2))
        """,
        "first, second = await asyncio.gather(fetch(1), fetch(2))",
    ),
    "gathered results in a loop": (
        r"""
        async def main():
            for one in asyncio.gather(fetch(1), fetch(2)):
                print(one)
        """,
        "for one in await asyncio.gather(fetch(1), fetch(2)):",
    ),
    "an item of gathered results": (
        r"""
        async def main():
            results = asyncio.gather(fetch(1), fetch(2))
            return results[0]
        """,
        "return (await results)[0]",
    ),
    "result of an executor": (
        r"""
        async def main():
            answer = asyncio.get_running_loop().run_in_executor(None, dict)
            return answer.get('key')
        """,
        "return (await answer).get('key')",
    ),
    "with a comment behind": (
        r"""
        async def main():
            for one in fetch([1]):  # each: of them
                print(one)
        """,
        "for one in await fetch([1]):",
    ),
}

#: What is said of coroutines and tasks that are lost, in the warning or the loop's report.
LOST: dict[str, tuple[str, str]] = {
    "a call alone": (
        r"""
        async def main():
            fetch()
        """,
        "write `await fetch()`",
    ),
    "a method's call alone": (
        r"""
        async def main():
            session.close()
        """,
        "write `await session.close()`",
    ),
    "asyncio.sleep alone": (
        r"""
        async def main():
            asyncio.sleep(1)
        """,
        "write `await asyncio.sleep(1)`",
    ),
    "a call alone in a plain function": (
        r"""
        def work():
            fetch()

        async def main():
            work()
        """,
        "which `await` in an `async def` function runs",
    ),
    "a call that is kept": (
        r"""
        async def once():
            pass

        async def main():
            kept = once()
        """,
        "`once()` made it at",
    ),
    "a call in a list": (
        r"""
        async def once():
            pass

        async def main():
            kept = [1, once()]
            del kept
        """,
        "`once()` made it at",
    ),
    "a task that nobody keeps": (
        r"""
        import gc

        async def waits():
            await asyncio.get_running_loop().create_future()

        async def main():
            asyncio.create_task(waits())
            await asyncio.sleep(0)
            gc.collect()
        """,
        "keep what `asyncio.create_task()` returns",
    ),
    "a task that its loop leaves behind": (
        r"""
        import gc, whilst

        async def waits():
            await asyncio.sleep(100)

        loop = whilst.Loop()
        loop.set_debug(True)
        task = loop.create_task(waits())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        del task, loop
        gc.collect()

        async def main():
            pass
        """,
        "when its loop had ended",
    ),
}

#: Programs that fail without a loop, run one by one by the command.
ALONE: dict[str, tuple[str, str]] = {
    "a task": (
        r"""
        coroutine = fetch()
        asyncio.create_task(coroutine)
        """,
        "`asyncio.create_task()` needs a running event loop",
    ),
    "the running loop": (
        r"""
        asyncio.get_running_loop()
        """,
        "`asyncio.get_running_loop()` needs a running event loop",
    ),
    "a timeout": (
        r"""
        asyncio.run(asyncio.wait_for)
        """,
        "`asyncio.wait_for` is a function, which has to be called",
    ),
    "a function that is run": (
        r"""
        asyncio.run(fetch)
        """,
        "write `asyncio.run(fetch())`",
    ),
    "attribute of a coroutine": (
        r"""
        fetch({}).get('key')
        """,
        "only a function made with `async def` can await it",
    ),
    "a call alone": (
        r"""
        fetch()
        """,
        "`asyncio.run(fetch())` runs it",
    ),
    "a main that is not run": (
        r"""
        async def main():
            pass

        if 1:
            main()
        """,
        "`asyncio.run(main())` runs it",
    ),
    "an exception that a task keeps": (
        r"""
        async def work():
            return fetch({}).get('key')

        async def main():
            task = asyncio.create_task(work())
            await asyncio.sleep(0.01)

        asyncio.run(main())
        """,
        "return (await fetch({})).get('key')",
    ),
}

#: What nothing may be said of.
HARMLESS: dict[str, str] = {
    "right: attribute": r"""
        async def main():
            return (await request.form).get('key')
    """,
    "right: item": r"""
        async def main():
            return (await request.json())['key']
    """,
    "right: gather": r"""
        async def main():
            return await asyncio.gather(fetch(1), fetch(2))
    """,
    "right: async for": r"""
        async def main():
            return [one async for one in numbers()]
    """,
    "right: async with": r"""
        async def main():
            async with Session() as it:
                return await it.get('/')
    """,
    "right: task awaited twice": r"""
        async def main():
            task = asyncio.create_task(fetch())
            await task
            await task
    """,
    "right: a task that is kept": r"""
        async def main():
            task = asyncio.create_task(fetch(1))
            await asyncio.sleep(0)
            return task.done() or await task
    """,
    "right: caught": r"""
        async def main():
            coroutine = fetch()
            try:
                coroutine.nothing
            except AttributeError:
                pass
            await coroutine
    """,
    "attribute of None": r"""
        async def main():
            return (await fetch()).get('key')
    """,
    "attribute of a dictionary": r"""
        async def main():
            return (await fetch({})).key
    """,
    "a slip in a task's method": r"""
        async def main():
            asyncio.create_task(fetch()).cancell()
    """,
    "a slip in a task's attribute": r"""
        async def main():
            return asyncio.create_task(fetch()).get_nam()
    """,
    "a slip in a coroutine's method": r"""
        async def main():
            coroutine = fetch()
            try:
                coroutine.clos()
            finally:
                coroutine.close()
    """,
    "a slip in a future's method": r"""
        async def main():
            asyncio.get_running_loop().create_future().set_resul(1)
    """,
    "attribute of a module": r"""
        async def main():
            asyncio.nothing
    """,
    "attribute of a function": r"""
        async def main():
            return fetch.get('key')
    """,
    "item of None": r"""
        async def main():
            return (await fetch())['key']
    """,
    "missing key": r"""
        async def main():
            return (await fetch({}))['key']
    """,
    "missing index": r"""
        async def main():
            return (await fetch([]))[0]
    """,
    "wrong sum": r"""
        async def main():
            return await fetch(1) + 'a'
    """,
    "wrong sum of names": r"""
        async def main():
            coroutine = 1
            return coroutine + 'task'
    """,
    "wrong comparison": r"""
        async def main():
            return await fetch(1) < 'a'
    """,
    "wrong iteration": r"""
        async def main():
            for one in await fetch(1):
                pass
    """,
    "wrong unpacking": r"""
        async def main():
            first, second = await fetch(1)
    """,
    "wrong number of values": r"""
        async def main():
            first, second = await fetch((1, 2, 3))
    """,
    "wrong call": r"""
        async def main():
            return (await fetch(1))()
    """,
    "wrong arguments": r"""
        async def main():
            await fetch(1, 2, 3)
    """,
    "wrong keyword": r"""
        async def main():
            await fetch(key=1)
    """,
    "wrong name": r"""
        async def main():
            await fetsh()
    """,
    "wrong with": r"""
        async def main():
            with 1:
                pass
    """,
    "wrong async with": r"""
        async def main():
            async with 1:
                pass
    """,
    "await of a number": r"""
        async def main():
            await 1
    """,
    "await of a number with a name": r"""
        async def main():
            number = 1
            await number
    """,
    "await of None with a name": r"""
        async def main():
            nothing = None
            await nothing
    """,
    "await of a class": r"""
        async def main():
            await Request
    """,
    "await of an instance": r"""
        async def main():
            await request
    """,
    "await of a list of numbers": r"""
        async def main():
            numbers = [1, 2]
            await numbers
    """,
    "async for over a number": r"""
        async def main():
            async for one in 1:
                pass
    """,
    "a message that looks alike": r"""
        async def main():
            raise TypeError("'coroutine' object is not subscriptable")
    """,
    "an attribute error that looks alike": r"""
        async def main():
            raise AttributeError("'coroutine' object has no attribute 'get'")
    """,
    "a runtime error that looks alike": r"""
        async def main():
            raise RuntimeError('no running event loop')
    """,
    "an error of the program's": r"""
        async def main():
            raise ValueError('coroutine was never awaited')
    """,
    "a class named as a coroutine": r"""
        class coroutine:
            pass

        async def main():
            return coroutine()['key']
    """,
    "a class named as a task": r"""
        class Task:
            pass

        async def main():
            return Task().get('key')
    """,
    "not serializable": r"""
        async def main():
            return json.dumps(object())
    """,
    "timeout": r"""
        async def main():
            await asyncio.wait_for(asyncio.sleep(10), 0.001)
    """,
    "cancelled": r"""
        async def main():
            task = asyncio.create_task(asyncio.sleep(10))
            task.cancel()
            await task
    """,
    "invalid state": r"""
        async def main():
            asyncio.get_running_loop().create_future().result()
    """,
    "result set twice": r"""
        async def main():
            future = asyncio.get_running_loop().create_future()
            future.set_result(1)
            future.set_result(2)
    """,
    "a stopped iteration": r"""
        async def main():
            next(iter([]))
    """,
    "an operand of two unknown ones": r"""
        async def main():
            box = types.SimpleNamespace(a=1, b='x')
            return box.a + box.b
    """,
    "hasattr": r"""
        async def main():
            coroutine = fetch()
            assert not hasattr(coroutine, 'get')
            return await coroutine + 1
    """,
    "getattr with a name": r"""
        async def main():
            coroutine = fetch()
            try:
                getattr(coroutine, 'get')
            finally:
                coroutine.close()
    """,
    "a thread's method of a task": r"""
        async def main():
            asyncio.create_task(fetch()).is_alive()
    """,
    "another language's method of a task": r"""
        async def main():
            task = asyncio.create_task(fetch())
            task.then(print)
    """,
    "is_done of a task": r"""
        async def main():
            task = asyncio.create_task(fetch())
            return task.is_done()
    """,
    "running of a future": r"""
        async def main():
            return asyncio.get_running_loop().create_future().running()
    """,
    "a task's method of a coroutine": r"""
        async def main():
            coroutine = fetch()
            try:
                coroutine.cancel()
            finally:
                coroutine.close()
    """,
    "join of a coroutine": r"""
        async def main():
            coroutine = fetch()
            try:
                coroutine.join()
            finally:
                coroutine.close()
    """,
    "attribute that the result of a task has not": r"""
        async def main():
            task = asyncio.create_task(fetch(1))
            await task
            return task.upper()
    """,
    "caught in the function below": r"""
        def probe(it):
            try:
                return it.nothing
            except AttributeError:
                return None

        async def main():
            coroutine = fetch()
            probe(coroutine)
            return await coroutine + 1
    """,
    "sum of a list of coroutines": r"""
        class Shop:
            def prices(self):
                return [fetch(1), fetch(2)]

        shop = Shop()

        async def main():
            return sum(shop.prices())
    """,
    "maximum of coroutines": r"""
        def some():
            return [fetch(1), fetch(2)]

        async def main():
            return max(some())
    """,
    "sorted coroutines": r"""
        def some():
            return [fetch(1), fetch(2)]

        async def main():
            return sorted(some())
    """,
    "joined coroutines": r"""
        def some():
            return [fetch('a')]

        async def main():
            return ''.join(some())
    """,
    "an iterator of coroutines": r"""
        def some():
            return map(list, [fetch([1])])

        async def main():
            for one in some():
                pass
    """,
    "a program's arguments": r"""
        import subprocess

        def arguments():
            return ['true', fetch('x')]

        async def main():
            subprocess.run(arguments())
    """,
    "a number in a dictionary": r"""
        import collections

        async def main():
            return collections.Counter(a=1) + 1
    """,
    "a plain for around a list": r"""
        async def main():
            for one in [1]:
                [one for one in 5]
    """,
    "a block around another manager": r"""
        async def main():
            with contextlib.ExitStack() as stack:
                stack.enter_context(asyncio.Lock())
    """,
    "list() in a loop": r"""
        async def main():
            for one in [1, 2]:
                list(map(list, [numbers()]))
    """,
    "a coroutine or another": r"""
        async def main():
            return (request and fetch or fetch)().nothing_at_all if 0 else None[0]
    """,
    "await of a mock": r"""
        from unittest import mock

        async def main():
            await mock.MagicMock(spec=[])
    """,
    "await of a mock's result": r"""
        from unittest import mock

        it = mock.Mock(return_value=1)

        async def main():
            await it()
    """,
    "await of what a dictionary has": r"""
        async def main():
            await {}.get('key')
    """,
    "await of a class's instance": r"""
        async def main():
            await Session()
    """,
    "await of a dictionary": r"""
        async def main():
            await {}
    """,
    "await of a list of numbers, written out": r"""
        async def main():
            await [1, 2]
    """,
    "await of an item": r"""
        async def main():
            await [1][0]
    """,
    "async with without an end": r"""
        class Half:
            async def __aenter__(self):
                return self

        async def main():
            async with Half():
                pass
    """,
    "with without an end": r"""
        class Half:
            def __enter__(self):
                return self

        async def main():
            with Half():
                pass
    """,
    "a type error of another process": r"""
        import pickle

        async def main():
            error = pickle.loads(pickle.dumps(TypeError("'coroutine' object is not subscriptable")))
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            await future
    """,
    "an attribute error of another process": r"""
        async def main():
            future = asyncio.get_running_loop().create_future()
            future.set_exception(AttributeError("'coroutine' object has no attribute 'get'"))
            await future
    """,
    "a message of a helper's": r"""
        def fail(text):
            raise RuntimeError(text)

        async def main():
            fail('no running event loop')
    """,
    "a class without an attribute": r"""
        class Form:
            pass

        async def main():
            return Form().get
    """,
    "a property that fails": r"""
        class Form:
            @property
            def coroutine(self):
                raise AttributeError('coroutine')

        async def main():
            return Form().coroutine
    """,
    "without source": r"""
        exec(compile('async def hidden():\n    return fetch()[0]', '<hidden>', 'exec'))

        async def main():
            return await hidden()
    """,
    "other source": r"""
        exec(compile('\n' * 34 + 'async def hidden():\n    return fetch()[0]', __file__, 'exec'))

        async def main():
            return await hidden()
    """,
    "a loop that is closed": r"""
        async def main():
            loop = asyncio.new_event_loop()
            loop.close()
            loop.call_soon(print)
    """,
    "a queue that is empty": r"""
        async def main():
            asyncio.Queue().get_nowait()
    """,
    "a lock that is not held": r"""
        async def main():
            asyncio.Lock().release()
    """,
    "a barrier that is broken": r"""
        async def main():
            raise asyncio.BrokenBarrierError('Task')
    """,
    "an exception group": r"""
        async def main():
            raise ExceptionGroup('coroutine', [TypeError('await'), RuntimeError('Task')])
    """,
    "a task group": r"""
        async def work():
            raise TypeError('await')

        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(work())
    """,
    "a loop over a future": r"""
        async def main():
            for one in asyncio.gather(fetch(1)):
                return one.real
    """,
    "attribute of the task that runs": r"""
        async def main():
            return asyncio.current_task().coro
    """,
    "item of the task that runs": r"""
        async def main():
            task = asyncio.current_task()
            return task['name']
    """,
    "await of one of several functions": r"""
        async def main():
            for function in (print, fetch):
                await function
    """,
}
