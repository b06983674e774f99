//! Fields: those that are honoured, those that change nothing by nature, and all others.

use serde_json::{Value as Json, json};

use crate::client::{Service, question};
use crate::tiny::{CONTEXT, Tiny};

#[test]
fn every_field_is_honoured_inert_or_refused_by_name() {
    let service = Service::start();
    let with = |name: &str, value: Json| {
        let mut body = question("What does tar do?");
        body["max_tokens"] = 3.into();
        body[name] = value;
        service.chat(&body)
    };
    for (name, value) in [
        ("user", json!("ada")),
        ("metadata", json!({ "a": "b" })),
        ("store", json!(true)),
        ("service_tier", json!("auto")),
        ("prompt_cache_key", json!("k")),
        ("prompt_cache_options", json!({ "mode": "implicit" })),
        ("verbosity", json!("medium")),
        ("reasoning_effort", json!("none")),
        ("safety_identifier", json!("s")),
        ("nothing_known", json!(null)),
        ("modalities", json!(["text"])),
        ("logit_bias", json!({})),
        ("tools", json!([])),
        ("stop", json!([])),
        ("response_format", json!({ "type": "text" })),
    ] {
        assert_eq!(with(name, value).status, 200, "{name}");
    }
    for (name, value) in [
        ("functions", json!([])),
        ("audio", json!({})),
        ("web_search_options", json!({})),
        ("reasoning_effort", json!("low")),
        ("verbosity", json!("low")),
        ("best_of", json!(2)),
        ("modalities", json!(["text", "audio"])),
        ("zzz", json!(1)),
    ] {
        let error = with(name, value).error(400);
        assert_eq!(error["param"], name, "{error}");
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
    }
    let error = with("temprature", json!(1)).error(400);
    assert!(error["message"].as_str().unwrap().contains("did you mean `temperature`?"), "{error}");
}

#[test]
fn a_template_is_told_how_much_to_think() {
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ reasoning_effort }}{{ enable_thinking }}:";
    let service = Service::of("effort", &[("thinks", &Tiny::with_template(template))]);
    let prompt_tokens = |path: &str, body: Json, place: &str| {
        let found = service.post(path, &body).ok();
        found.pointer(place).and_then(Json::as_u64).unwrap_or_else(|| panic!("{found}"))
    };
    let chat = |effort: Json| {
        let body = json!({ "model": "thinks", "messages": [{ "role": "user", "content": "x" }], "max_tokens": 1,
            "reasoning_effort": effort });
        prompt_tokens("/v1/chat/completions", body, "/usage/prompt_tokens")
    };
    let responses = |effort: Json| {
        let body =
            json!({ "model": "thinks", "input": "x", "max_output_tokens": 1, "reasoning": { "effort": effort } });
        prompt_tokens("/v1/responses", body, "/usage/input_tokens")
    };
    let plain = chat(json!(null));
    assert_eq!((chat(json!("low")), chat(json!("medium"))), (plain + 3, plain + 6));
    // The switch is told `False`.
    assert_eq!(chat(json!("none")), plain + 5);
    for effort in [json!(null), json!("low"), json!("none")] {
        assert_eq!(responses(effort.clone()), chat(effort));
    }
}

#[test]
fn wrong_types_and_values_are_refused_with_their_place() {
    let service = Service::start();
    for (name, value, param) in [
        ("temperature", json!("hot"), "temperature"),
        ("temperature", json!([1]), "temperature"),
        ("max_tokens", json!(1.5), "max_tokens"),
        ("max_tokens", json!(0), "max_tokens"),
        ("max_tokens", json!(-5), "max_tokens"),
        ("n", json!("two"), "n"),
        ("stream", json!("yes"), "stream"),
        ("stream_options", json!({ "include_usage": true }), "stream_options"),
        ("stop", json!([1]), "stop"),
        ("stop", json!([""]), "stop"),
        ("seed", json!("x"), "seed"),
        ("logit_bias", json!([]), "logit_bias"),
        ("logit_bias", json!({ "x": 1 }), "logit_bias"),
        ("logit_bias", json!({ "1": 101 }), "logit_bias"),
        ("logit_bias", json!({ "99999999": 1 }), "logit_bias"),
        ("tools", json!({}), "tools"),
        ("tools", json!([{ "type": "web_search" }]), "tools[0]"),
        ("tool_choice", json!("perhaps"), "tool_choice"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("response_format", json!({ "type": "xml" }), "response_format.type"),
        ("response_format", json!({ "type": "json_schema" }), "response_format.json_schema"),
        ("samplers", json!(["top_q"]), "samplers"),
        ("mirostat", json!(1), "mirostat"),
        ("messages", json!("hi"), "messages"),
        ("messages", json!([]), "messages"),
        ("messages", json!([{ "role": "user", "content": 5 }]), "messages[0]"),
        ("messages", json!([{ "role": "wizard", "content": "x" }]), "messages[0].role"),
        (
            "messages",
            json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }]),
            "messages[0].content[0]",
        ),
        ("model", json!(5), "model"),
        ("model", json!(""), "model"),
    ] {
        let mut body = question("x");
        body[name] = value.clone();
        let error = service.chat(&body).error(400);
        assert_eq!(error["param"], param, "{name}: {value}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    // Out of a range that the sampler knows.
    for (name, value) in
        [("temperature", json!(-1)), ("top_p", json!(0)), ("min_p", json!(2)), ("temperature", json!(1e300))]
    {
        let mut body = question("x");
        body[name] = value;
        service.chat(&body).error(400);
    }
}

#[test]
fn messages_may_have_what_clients_send_back() {
    let service = Service::start();
    let body = json!({ "messages": [
        { "role": "developer", "content": [{ "type": "text", "text": "Be brief.", "cache_control": { "type": "ephemeral" } }] },
        { "role": "user", "content": "Hello" },
        { "role": "assistant", "content": "Hello!", "refusal": null, "annotations": [], "audio": null, "tool_calls": null },
        { "role": "user", "content": [{ "type": "text", "text": "What does tar do?" }], "name": "ada" },
    ], "max_tokens": 4 });
    service.chat(&body).ok();
    let mut strange = body.clone();
    strange["messages"][1]["mood"] = "gay".into();
    let error = service.chat(&strange).error(400);
    assert!(error["message"].as_str().unwrap().contains("`mood`"), "{error}");
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_with_both_numbers() {
    let service = Service::of("long", &[("tiny", &Tiny::new())]);
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "a".repeat(5000) }] });
    let error = service.chat(&body).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["context_tokens"], CONTEXT);
    let prompt = error["prompt_tokens"].as_u64().unwrap();
    assert!(prompt > 5000);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&prompt.to_string()) && message.contains(&CONTEXT.to_string()), "{message}");
}

#[test]
fn an_unknown_model_is_not_found() {
    let service = Service::start();
    let mut body = question("x");
    body["model"] = "gpt-9".into();
    let error = service.chat(&body).error(404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    assert_eq!(service.get("/v1/models/gpt-9").error(404)["code"], "model_not_found");
    body["model"] = "/etc/passwd".into();
    service.chat(&body).error(400);
    body["model"] = "/models/default.gguf".into();
    body["max_tokens"] = 2.into();
    service.chat(&body).ok();
}

#[test]
fn what_cannot_be_promised_is_noted() {
    let template = "{% if enable_thinking %}Think. {% endif %}{{ messages[0].content }}";
    let service = Service::of("notes", &[("tiny", &Tiny::with_template(template))]);
    let mut body = question("x");
    (body["model"], body["max_tokens"]) = ("tiny".into(), 2.into());
    body["chat_template_kwargs"] = json!({ "enable_thinking": false, "colour": "red" });
    let notes = service.chat(&body).ok()["hublab"]["notes"].clone();
    assert_eq!(notes, json!(["`chat_template_kwargs.colour` changes nothing: the model's template does not know it"]));
    body["timings_per_token"] = true.into();
    assert_eq!(service.chat(&body).error(400)["param"], "timings_per_token");
    body["timings_per_token"] = false.into();
    service.chat(&body).ok();
}
