package org.example.edgenas

import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.RectF
import java.io.Closeable
import java.io.File
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import org.json.JSONObject
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter
import kotlin.math.exp
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min

/** A model of EdgeNAS: an asset, or what was shipped to the app. For one thread. */
class EdgeNasModel private constructor(private val read: (String) -> InputStream, threads: Int) : Closeable {
    /** What `edgenas export BUNDLE DIR --format android` wrote, from `assets/edgenas/NAME/`. */
    constructor(assets: AssetManager, name: String, threads: Int = 1) :
        this({ file -> assets.open("edgenas/$name/$file") }, threads)

    /** What `edgenas ship BUNDLE PHONE --as NAME --to-app PACKAGE` made live, from the app's `filesDir`. */
    constructor(filesDir: File, name: String, threads: Int = 1) :
        this(filesOf(live(File(filesDir, "edgenas/$name"))), threads)

    private val manifest = JSONObject(String(read("manifest.json").use { it.readBytes() }))
    private val policy = manifest.getJSONObject("preprocessing").getString("policy")

    /** The names of the classes. */
    val labels: List<String> = String(checked("labels.txt")).trimEnd('\n').split('\n')

    private val model = checked("model.tflite")
    private val interpreter =
        Interpreter(direct(model.size).apply { put(model) }, Interpreter.Options().setNumThreads(threads))
    private val input = interpreter.getInputTensor(0)
    private val output = interpreter.getOutputTensor(0)
    private val height = input.shape()[1]
    private val width = input.shape()[2]
    private val channels = input.shape()[3]

    /** The probability of each label. */
    fun classify(image: Bitmap): Map<String, Float> {
        val scores = direct(output.numBytes())
        interpreter.run(pixels(sized(image)), scores)
        scores.rewind()
        val logits = labels.map { if (output.dataType() == DataType.FLOAT32) scores.float else real(scores.get()) }
        val powers = logits.map { exp(it - logits.reduce(::max)) }
        return labels.zip(powers.map { it / powers.sum() }).toMap()
    }

    override fun close() = interpreter.close()

    /** A file whose SHA-256 is the manifest's. A bundle may have its network in two precisions: the model is one. */
    private fun checked(file: String): ByteArray {
        val content = read(file).use { it.readBytes() }
        val hash = MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { "%02x".format(it) }
        val files = manifest.getJSONObject("files")
        val named = files.keys().asSequence().filter { it == file || (file == "model.tflite" && it.startsWith("model_")) }
        val expected = named.map { files.getString(it) }.toList()
        check(hash in expected) { "$file is not what the manifest says: expected $expected, received $hash" }
        return content
    }

    /** The image at the model's size, as it was brought to it in training. */
    private fun sized(image: Bitmap): Bitmap {
        val result = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        val (left, top, across, down) =
            place(policy, image.width.toDouble(), image.height.toDouble(), width.toDouble(), height.toDouble())
                .map { it.toFloat() }
        val place = RectF(left, top, left + across, top + down)
        Canvas(result).apply { drawColor(Color.BLACK) }.drawBitmap(image, null, place, Paint(Paint.FILTER_BITMAP_FLAG))
        return result
    }

    /** Raw pixels of 0-255, row by row: normalisation is inside the model. */
    private fun pixels(image: Bitmap): ByteBuffer {
        val colours = IntArray(width * height)
        image.getPixels(colours, 0, width, 0, 0, width, height)
        val buffer = direct(input.numBytes())
        for (colour in colours) {
            val rgb = listOf(Color.red(colour), Color.green(colour), Color.blue(colour))
            val grey = (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) / 65536
            for (value in if (channels == 1) listOf(grey) else rgb) {
                if (input.dataType() == DataType.FLOAT32) buffer.putFloat(value.toFloat()) else buffer.put(value.toByte())
            }
        }
        buffer.rewind()
        return buffer
    }

    /** What a quantised score stands for. */
    private fun real(stored: Byte): Float = output.quantizationParams().let {
        it.scale * ((stored.toInt() and 0xff) - it.zeroPoint)
    }

    private fun direct(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    private companion object {
        /**
         * Where the whole image lies on the input, as in training: left, top, width, height. Halves round up; an
         * odd row of padding is below, an odd column right. A test of EdgeNAS reads these lines: keep them this simple.
         */
        fun place(policy: String, wide: Double, high: Double, width: Double, height: Double): List<Double> {
            val least = min(width / wide, height / high)
            val most = max(width / wide, height / high)
            val across = max(1.0, floor(wide * least + 0.5))
            val down = max(1.0, floor(high * least + 0.5))
            return when (policy) {
                "fit" -> listOf(0.0, 0.0, width, height)
                "crop" -> listOf((width - wide * most) / 2, (height - high * most) / 2, wide * most, high * most)
                "pad" -> listOf(floor((width - across) / 2), floor((height - down) / 2), across, down)
                else -> error("unknown policy $policy")
            }
        }

        /** The release that is live now: where the link `current` leads, or what the file of that name says. */
        fun live(folder: File): File = File(folder, "current").let {
            if (it.isDirectory) it.canonicalFile else File(folder, it.readText().trim())
        }

        fun filesOf(release: File): (String) -> InputStream = { file -> File(release, file).inputStream() }
    }
}
