# The web page, for others in a network: `docker build -t hvae-jax .`, and see docs/web.md.
FROM python:3.12-slim AS wheel
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /source

FROM python:3.12-slim
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir "$(echo /wheel/*.whl)[web,photo]" && rm -r /wheel \
    && useradd --create-home --uid 1000 restore
USER restore
WORKDIR /home/restore
EXPOSE 7860
# It wants HVAE_JAX_WEB_PASSWORD, and refuses to start without.
CMD ["hvae-jax", "web", "--host", "0.0.0.0"]
