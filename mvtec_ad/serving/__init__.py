"""A service on the line: pictures come in by HTTP, verdicts with their reasons go out; FastAPI and uvicorn, an extra.

`guard` keeps requests within limits before anything parses them, `uploads` makes pictures of bodies, `batches` hands
them to a single thread, where `models` looks at them; `feedback` keeps what people say of the verdicts, and `app` is
the application.
"""
