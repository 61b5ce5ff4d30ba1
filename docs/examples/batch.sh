#!/usr/bin/env bash
# Draws one picture for each prompt. Needs curl and jq.
set -euo pipefail

URL="${GENSERVE_URL:-http://localhost:12411}"
API_KEY="${API_KEY:-genserve-default-key-2024}"

prompts=(
  "一只可爱的小猫"
  "一只威武的狮子"
  "一只优雅的天鹅"
)

for prompt in "${prompts[@]}"; do
  file="output_${prompt// /_}.png"
  jq -n --arg prompt "$prompt" '{
      prompt: $prompt, model_id: "flux1-dev", mode: "text2img",
      width: 1024, height: 1024, num_inference_steps: 50, cfg: 3.5, seed: 42
    }' |
    curl -sS --fail-with-body "$URL/generate" \
      -H "Content-Type: application/json" \
      -H "Authorization: Bearer $API_KEY" \
      -d @- |
    jq -r '.image' | sed 's/^data:[^,]*,//' | base64 -d > "$file"
  echo "$file"
done
