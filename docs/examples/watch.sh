#!/usr/bin/env bash
# Hands in a task without waiting, looks after it, and fetches the picture. Needs curl and jq.
set -euo pipefail

URL="${GENSERVE_URL:-http://localhost:12411}"
API_KEY="${API_KEY:-genserve-default-key-2024}"
auth=(-H "Authorization: Bearer $API_KEY")

task_id=$(curl -sS --fail-with-body "$URL/generate" "${auth[@]}" \
  -H "Content-Type: application/json" \
  -d '{"prompt": "一只可爱的小猫", "mode": "text2img", "async": true}' | jq -r '.task_id')
echo "task: $task_id"

while true; do
  result=$(curl -sS --fail-with-body "$URL/task/$task_id" "${auth[@]}")
  status=$(jq -r '.status' <<<"$result")
  echo "status: $status"
  case "$status" in
    completed)
      jq -r '.image' <<<"$result" | sed 's/^data:[^,]*,//' | base64 -d > output.png
      echo "output.png"
      break
      ;;
    failed | cancelled)
      jq -r '.detail' <<<"$result" >&2
      exit 1
      ;;
  esac
  sleep 1
done
