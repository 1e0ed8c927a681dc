"""Asks for tokens without pause, on a connection of its own for each, until a file appears.

usage: units-load.py SOCKET STOP_FILE THREADS

Prints how many were answered with which status, and how many connections were refused or broken.
A 503 without Retry-After counts as broken. Any answer but 200 and 503 does, too.
"""
import collections
import os
import socket
import sys
import threading

path, stop, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
request = (b"GET /v1/token?identity=vm&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\n"
           b"Host: agent\r\nConnection: close\r\n\r\n")
seen, lock = collections.Counter(), threading.Lock()


def ask():
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(request)
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    head = answer.split(b"\r\n\r\n")[0]
    status = head.split(b" ")[1].decode() if answer else "no answer"
    if status == "503" and b"retry-after:" not in head.lower():
        status = "503 without Retry-After"
    return status


def run():
    while not os.path.exists(stop):
        try:
            said = ask()
        except OSError as error:
            said = type(error).__name__
        with lock:
            seen[said] += 1


workers = [threading.Thread(target=run) for _ in range(threads)]
for w in workers:
    w.start()
for w in workers:
    w.join()
print(dict(seen))
sys.exit(0 if seen["200"] and set(seen) <= {"200", "503"} else 1)
