# SPDX-License-Identifier: MIT
"""Short tasks by the thousand, which asyncio knows in weak sets only: reported as a leak, and
none."""

import asyncio

from pace import WINDOW


async def work(i):
    await asyncio.sleep(0)
    return i


async def main():
    i = 0
    while True:
        await asyncio.gather(*[work(k) for k in range(20)])
        await asyncio.sleep(WINDOW / 200)


asyncio.run(main())
