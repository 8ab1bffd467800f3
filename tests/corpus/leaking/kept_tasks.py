# SPDX-License-Identifier: MIT
"""Background tasks that wait for an answer that never comes; the loop's owner keeps them."""
# leaks: asyncio*|_asyncio.Task|*

import asyncio

from pace import WINDOW

BACKGROUND = set()


async def wait_for(answer):
    await answer


async def main():
    i = 0
    loop = asyncio.get_running_loop()
    while True:
        BACKGROUND.add(asyncio.ensure_future(wait_for(loop.create_future())))
        i += 1
        await asyncio.sleep(WINDOW / 200)


asyncio.run(main())
