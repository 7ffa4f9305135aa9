"""The names in spans and metrics, in one table: OpenTelemetry's GenAI conventions, v0.1.0.

They are in development. Where they change, this table does, and nothing else.
``tests/telemetry/test_traces.py`` compares it with the names of the package
``opentelemetry-semantic-conventions``.
"""

from typing import Final

VERSION: Final = "0.1.0"
SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/gen-ai/{VERSION}"
SCOPE: Final = "lifecycle_proxy"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
CALL_ID: Final = "gen_ai.tool.call.id"
CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
CALL_RESULT: Final = "gen_ai.tool.call.result"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  no password
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
STATUS_CODE: Final = "http.response.status_code"

# Of this proxy's own: the conventions have nothing of the kind.
ENDED: Final = "lifecycle_proxy.ended"
DIALECT: Final = "lifecycle_proxy.dialect"
REQUEST_ID: Final = "lifecycle_proxy.request_id"
OUTCOME: Final = "lifecycle_proxy.tool.outcome"
HOSTED: Final = "lifecycle_proxy.tool.hosted"  # it ran behind the upstream

CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
FUNCTION: Final = "function"
# What an upstream speaks, by the route: whose product it is cannot be known.
PROVIDERS: Final = {"messages": "anthropic"}
DEFAULT_PROVIDER: Final = "openai"
CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CAPTURING: Final = ("true", "span_only", "span_and_event")

METRIC_DURATION: Final = "gen_ai.client.operation.duration"
METRIC_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
METRIC_TOKENS: Final = "gen_ai.client.token.usage"
METRIC_TOOL: Final = "gen_ai.execute_tool.duration"
OVERFLOW: Final = "otel.metric.overflow"  # of all series above a limit
