// Prompt -> the text encoder's inputs, as the tokenizer of transformers with padding and truncation.
import {Tokenizer} from "../libraries/tokenizers.js";

export class PromptTokenizer {
  /**
   * @param about `prompt` of export.json
   * @param tokenizer the content of tokenizer.json
   * @param config the content of tokenizer_config.json
   */
  constructor(about, tokenizer, config) {
    this.about = about;
    this.tokenizer = new Tokenizer({...tokenizer, padding: null, truncation: null}, config);
    // Special tokens at the end, such as [SEP], stay when a long prompt is cut.
    const empty = this.#ids(""), word = this.#ids("a");
    this.suffix = 0;
    while (this.suffix < empty.length && word.at(-1 - this.suffix) === empty.at(-1 - this.suffix)) this.suffix++;
  }

  /** `{input_ids, attention_mask, dropped}`: two Int32Array of `tokens` values, and how many tokens were cut off. */
  encode(prompt) {
    const {tokens, padding_id} = this.about;
    let ids = this.#ids(prompt);
    const dropped = Math.max(0, ids.length - tokens);
    if (dropped) ids = [...ids.slice(0, tokens - this.suffix), ...ids.slice(ids.length - this.suffix)];
    const input_ids = new Int32Array(tokens).fill(padding_id), attention_mask = new Int32Array(tokens);
    input_ids.set(ids);
    attention_mask.fill(1, 0, ids.length);
    return {input_ids, attention_mask, dropped};
  }

  #ids(text) {
    return this.tokenizer.encode(text).ids;
  }
}
