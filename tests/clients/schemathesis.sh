#!/usr/bin/env bash
# What `/openapi.json` promises, tried with data that obeys it and data that does not: no status of 500 or above, none that is
# not documented, no body of another form. `HUBLAB_URL=http://… bash schemathesis.sh PROGRAM`; tests/clients/run does it.
set -euo pipefail
program=${1:-schemathesis}
exec "$program" run "${HUBLAB_URL:?give the address of the service}/openapi.json" \
    --mode all \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --max-examples "${HUBLAB_SCHEMATHESIS_EXAMPLES:-25}" --seed 20240229 --phases examples,coverage,fuzzing \
    --request-timeout 120 --suppress-health-check all --no-color
