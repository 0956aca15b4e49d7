"""What is counted of each request."""

import httpx

from tests.helpers.live_server import serving


def test_metrics_count_requests_and_tokens() -> None:
    prompt = {"model": "mini", "prompt": "1, 2,", "raw": True, "stream": False}
    asked = {**prompt, "options": {"num_predict": 3}}
    with serving(n_ctx=256) as url:
        reply = httpx.post(f"{url}/api/generate", json=asked, timeout=60)
        assert reply.json()["eval_count"] == 3
        text = httpx.get(f"{url}/metrics").text
    assert 'reellama_requests_total{route="/api/generate",status="200"}' in text
    assert "reellama_generated_tokens_total 3.0" in text
    assert "reellama_active_requests 0.0" in text
