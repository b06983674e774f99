//! The JSON that client and service exchange, as types.
//!
//! Nothing here opens a connection or checks a value: the service reads requests with its own code, which knows every field by
//! name, and the client reads answers leniently, so that a newer service may say more than it understands. Fields that are not
//! set are left out of requests.
//!
//! [`openai`] is OpenAI's dialect with our extensions, [`anthropic`] and [`ollama`] are the others, [`own`] are the endpoints that
//! only this service has.

pub mod anthropic;
pub mod ollama;
pub mod openai;
pub mod own;
